"""What steers a clip besides its text: pictures and sketches at single frames (SparseCtrl)."""
