"""The one reader of foreign pickles: it looks up no code, whatever a file names."""

from __future__ import annotations

import pickle
from typing import Any, ClassVar


class RefusedError(pickle.UnpicklingError):
    """A pickle that wants more than data."""


# Python's own reading loop in place of the one in C: its dispatch table can be narrowed, and its
# memo is a dictionary, where the other fills a table as long as any index that a file names.
class GuardedUnpickler(pickle._Unpickler):
    """Answers the names in a file from a table; what the table lacks is refused.

    Attributes:
        makers: module and name → what stands for it.
    """

    makers: ClassVar[dict[tuple[str, str], Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        # numpy 2 moved numpy.core to numpy._core; Python 2 called builtins __builtin__.
        place = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        if (place, name) in self.makers:
            return self.makers[place, name]
        return self.unknown(module, name)

    def unknown(self, module: str, name: str) -> Any:
        """What stands for a name that the table lacks.

        Raises:
            RefusedError: always, here.
        """
        asked = f"{module}.{name}"[:160].encode("unicode_escape").decode()
        raise RefusedError(f"it asks for {asked}, which is refused; nothing was run")
