"""What :func:`napari_fcnseg.segment_batch` is made of.

``inputs`` finds the images and names their outputs, ``state`` knows what is done, ``one_image`` does
one image, ``workers`` several at a time, ``thumbnails`` and ``report`` show the result.
"""
