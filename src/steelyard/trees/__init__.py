"""Forests: one array layout for boosted trees, one converter per library, and the objectives that they minimise.

Arrays, text and JSON in, arrays out: nothing here trains a model, reads examples or knows a run folder. The layout
and the objectives are pure NumPy; a converter may read its own library's objects.
"""
