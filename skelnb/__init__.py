"""Self-supervised understanding of human skeleton motion."""

import sys as _sys
from importlib import import_module as _import

__version__ = "0.1.0"

# What one reaches for first, imported when it is first asked for: `import skelnb` itself is instant.
_PLACES = {
    "data.clip": ("Clip", "Segment"),
    "data.store": ("SkeletonStore",),
    "data.pose": ("read_pose",),
    "interface.commands": ("prepare", "doctor", "convert", "info", "forge", "plan"),
    "interface.encoder": ("Encoder", "load", "embed"),
    "interface.use": ("segment", "find"),
    "interface.attention": ("attention_of",),
    "interface.weights": ("convert_official", "push_to_hub"),
    "topology": ("layout", "layouts"),
    "errors": ("SkelnbError",),
}
_WHERE = {name: place for place, names in _PLACES.items() for name in names}
__all__ = ["__version__", *_WHERE]


def __getattr__(name):
    if name not in _WHERE:
        raise AttributeError(f"module 'skelnb' has no attribute {name!r}")
    return getattr(_import(f"skelnb.{_WHERE[name]}"), name)


def __dir__():
    return [*globals(), *_WHERE]


def _clip_html(clip):
    player, errors = _import("skelnb.reporting.player"), _import("skelnb.errors")
    try:
        return player.player_html(player.Player(clip))
    except errors.SkelnbError:  # nobody to be seen, or not a sound clip: then its text must do
        return None


if "IPython" in _sys.modules and (_shell := _sys.modules["IPython"].get_ipython()) is not None:  # in a notebook a clip shows itself
    _shell.display_formatter.formatters["text/html"].for_type_by_name("skelnb.data.clip", "Clip", _clip_html)
