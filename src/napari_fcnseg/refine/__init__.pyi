from .crf import dense_crf
from .cuts import alpha_expansion, binary_cut, energy, graph_cut
from .objects import fill_enclosed, open_objects, remove_small, seeded_watershed, split_touching
from .oversegmentation import superpixel_vote, superpixels
from .proposals import selective_grouping
from .regions import superpixel_crf, superpixel_cut
from .smoothing import gaussian_smooth

__all__ = [
    "alpha_expansion",
    "binary_cut",
    "dense_crf",
    "energy",
    "fill_enclosed",
    "gaussian_smooth",
    "graph_cut",
    "open_objects",
    "remove_small",
    "seeded_watershed",
    "selective_grouping",
    "split_touching",
    "superpixel_crf",
    "superpixel_cut",
    "superpixel_vote",
    "superpixels",
]
