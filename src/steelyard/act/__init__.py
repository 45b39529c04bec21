"""Stage 3: from scores to a plan: what to change in the training set, as ids with a reason in words for each.

Here lives one file per kind of plan, and one per published system that goes from a problem to a plan by itself; what
those share is in ``system.py``. A plan is a proposal: nothing is changed, trained or verified here.
"""

from steelyard.act.demonstrate import TEMPLATE as TEMPLATE
from steelyard.act.demonstrate import demonstrate as demonstrate
from steelyard.act.demonstrate import prompt_of as prompt_of
from steelyard.act.draw import draw as draw
from steelyard.act.drop import drop as drop
from steelyard.act.harden import Harden as Harden
from steelyard.act.keep import keep as keep
from steelyard.act.prune_by_kernel import PruneByKernel as PruneByKernel
from steelyard.act.relabel import relabel as relabel
from steelyard.act.review import review as review
from steelyard.act.select_for_target import select_for_target as select_for_target
from steelyard.collect.designs import random_like as random_like
