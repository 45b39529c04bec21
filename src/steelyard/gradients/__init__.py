"""Everything that needs a backward pass: taps on layers, factored per-example gradients, projections, curvature.

One internal format: the gradient of example i at a layer is ``G_i = sum_t g_it a_it^T`` with layer inputs ``a``
``[example, position, in]`` (a last column of ones stands for the bias) and output gradients ``g``
``[example, position, out]``. Convolutions are unfolded to it, embeddings keep the token index in place of ``a``,
and whatever has no such form is a plain row per example. Loading data and writing files do not belong here.
"""
