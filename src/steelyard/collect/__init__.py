"""Stage 1: one file per kind of signal, each an expensive pass over model and data that later stages share.

Here live the passes: refits on designed subsets, gradients and what else a learner can be asked for, kept in
the run folder under keys that name data, learner and seed, so that nothing is computed twice and a killed run
goes on. What a signal means is not decided here: no scores, no plans, no verdicts.
"""
