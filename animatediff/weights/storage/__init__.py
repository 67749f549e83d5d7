"""Weight files as data: bytes, header, tensors; folders of them."""
