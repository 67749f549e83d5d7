"""Names in pickles: those that only an attack has use for, and functions that are harmless to call in vain.

Nothing in a pickle is ever called (`unpickle.Walker`); these lists decide what is said about it.
"""

from __future__ import annotations

CONTAINERS = {
    "dict": "dict", "list": "list", "set": "set", "frozenset": "set", "tuple": "tuple", "int": "scalar",
    "long": "scalar", "float": "scalar", "complex": "scalar", "bool": "scalar", "str": "scalar", "unicode": "scalar",
    "basestring": "scalar",
}  # fmt: skip
"""Builtin types -> the walker's function that makes one."""
BUILTIN_CLASSES = {
    "object", "slice", "range", "xrange", "bytes", "bytearray", "type", "property", "staticmethod", "classmethod",
    "super", "Ellipsis", "NotImplemented", "None", "NoneType", "iter", "reversed", "enumerate", "zip",
}  # fmt: skip
DANGEROUS_MODULES = {
    "os", "posix", "nt", "subprocess", "_posixsubprocess", "sys", "shutil", "socket", "_socket", "importlib",
    "_frozen_importlib", "_frozen_importlib_external", "imp", "zipimport", "runpy", "pty", "ctypes", "_ctypes", "code",
    "codeop", "webbrowser", "asyncio", "multiprocessing", "concurrent", "threading", "_thread", "signal", "pickle",
    "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "commands", "popen2", "timeit",
    "cProfile", "profile", "pdb", "bdb", "trace", "doctest", "idlelib", "lib2to3", "pydoc", "pip", "ensurepip", "venv",
    "urllib", "urllib2", "http", "httplib", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "poplib", "imaplib",
    "telnetlib", "ssl", "IPython", "sqlite3", "xmlrpc", "socketserver", "asyncore", "fileinput", "distutils",
    "setuptools", "pkg_resources", "pkgutil", "torch.hub", "torch.jit", "torch.package", "torch.utils.cpp_extension",
    "torch.utils.bottleneck", "torch.utils.collect_env", "torch.utils._config_module", "torch.distributed.rpc",
    "torch.multiprocessing", "numpy.testing", "numpy.f2py", "numpy.distutils", "numpy.ctypeslib",
}  # fmt: skip
DANGEROUS_NAMES = {
    "eval", "exec", "execfile", "compile", "open", "__import__", "system", "popen", "Popen", "spawn", "fork",
    "__globals__", "__builtins__", "__subclasses__", "__class__", "__dict__", "__code__", "__reduce__",
    "__getattribute__", "attrgetter", "methodcaller", "FunctionType", "CodeType", "runstring",
    "_load_from_file",
}  # fmt: skip
"""Last parts of names that are an attack whatever module they claim to be of."""
KNOWN_MODULES = (
    "omegaconf", "antlr4", "typing", "pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities",
    "numpy", "pathlib", "argparse", "transformers", "diffusers", "accelerate", "peft", "datetime", "enum", "decimal",
    "fractions", "uuid", "zoneinfo", "pytz", "dateutil", "re", "sre_compile", "copyreg", "copy_reg", "_codecs",
    "collections", "types", "functools", "random", "logging", "string", "dataclasses", "abc", "pandas", "easydict",
    "addict", "yacs", "ml_collections", "munch", "torchvision", "PIL", "tokenizers", "k_diffusion", "ldm", "sgm",
    "jax", "jaxlib", "ml_dtypes", "scipy", "sklearn", "bitsandbytes", "torchao",
)  # fmt: skip
"""Modules whose objects published checkpoints carry beside their tensors."""
KNOWN_FUNCTIONS = {
    "torch.device", "torch.dtype", "torch.layout", "torch.memory_format", "torch.serialization._get_layout",
    "torch.storage._load_from_bytes", "torch.distributed._functional_collectives", "torch.cuda.device",
}  # fmt: skip


def is_dangerous(module: str, name: str) -> bool:
    """A name that no weight file has use for, not even without being called."""
    parts = name.split(".")
    if module in ("builtins", "__builtin__", "__builtins__"):
        return not (len(parts) == 1 and (name in BUILTIN_CLASSES or name.endswith(("Error", "Exception", "Warning"))))
    path = module.split(".")
    if any(".".join(path[:end]) in DANGEROUS_MODULES for end in range(1, len(path) + 1)):
        return True
    return not DANGEROUS_NAMES.isdisjoint(parts) or (len(parts) > 1 and parts[0] in DANGEROUS_MODULES)


def is_call(name: str) -> bool:
    """A name spelled as functions are, not as classes are: called, it would run code of its own."""
    return name.rsplit(".", 1)[-1].lstrip("_")[:1].islower()


def is_known(module: str, name: str) -> bool:
    """A name of the lists above, harmless whether it is a class or a function."""
    return module.split(".")[0] in (*KNOWN_MODULES, "builtins", "__builtin__") or f"{module}.{name}" in KNOWN_FUNCTIONS
