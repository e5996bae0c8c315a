"""Settings of other programs, turned into ours: one mapping in, another one and a list of remarks out."""

from enginery.importing.llama_swap import Imported, import_llama_swap
from enginery.importing.writing import as_yaml

__all__ = ["Imported", "as_yaml", "import_llama_swap"]
