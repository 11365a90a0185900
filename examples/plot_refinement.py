"""
Refine the probabilities of a network
=====================================

A network that looks at coarse cells knows roughly where things are, and errs at single pixels. The image
knows better where one thing ends and the next begins. Five ways to go on from the same probabilities.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter
from scipy.special import softmax
from skimage.data import coffee
from skimage.draw import ellipse
from skimage.segmentation import mark_boundaries

from napari_fcnseg.refine.chain import make_chain

# %%
# The truth, drawn by hand: 0 the table, 1 the saucer and what stands on it, 2 the inside of the cup.

image = coffee()[:384, :576]
truth = np.zeros(image.shape[:2], int)
truth[ellipse(212, 276, 171, 198, shape=truth.shape)] = 1
truth[ellipse(111, 289, 94, 117, shape=truth.shape)] = 2

# %%
# The network is made up. It knows the commonest class of each cell of 32 x 32 pixels, blurred as by
# bilinear upsampling, and each pixel adds an error of its own.

share = np.eye(3)[truth].reshape(12, 32, 18, 32, 3).mean((1, 3))
coarse = np.eye(3)[share.argmax(-1)].repeat(32, 0).repeat(32, 1)
scores = 3 * gaussian_filter(coarse, (16, 16, 0)) + np.random.default_rng(0).normal(size=coarse.shape)
probabilities = softmax(scores, -1).transpose(2, 0, 1).astype(np.float32)

# %%
# These are the names and options that ``segment(..., refine=...)`` takes. Counted are the pixels within
# 12 of a border of the truth; farther away, once refined, nearly all are right.

steps = [
    {"name": "smooth", "sigma": 8},
    {"name": "superpixels", "size": 150},
    {"name": "superpixel_cut", "size": 150},
    {"name": "graph_cut", "contrast": 0.07, "smoothness": 8},
    {"name": "crf", "theta_alpha": 40, "theta_beta": 10},
]
pixels = image.transpose(2, 0, 1).astype(np.float32) / 255
near = maximum_filter(truth, 25) != minimum_filter(truth, 25)

figure, places = plt.subplots(2, 3, figsize=(12, 6), layout="constrained")
for step, axes in zip([None, *steps], places.flat, strict=True):
    labels = make_chain(step).refine(probabilities, pixels).argmax(0)
    axes.imshow(mark_boundaries(image, labels, color=(0, 1, 1), mode="thick"))
    axes.set_title(f"{step['name'] if step else 'raw'}: {(labels == truth)[near].mean():.1%} right")
    axes.set_axis_off()
plt.show()
