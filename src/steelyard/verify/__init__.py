"""Stage 4: is it true? Claims of scores and plans against refits that no method has seen.

Here lives every way to put a number and an interval to a claim. Each asks what random scores or random plans
of equal size would have shown, says how small an effect it could have seen, and refuses to conclude when
noise exceeds signal. Nothing here scores or makes plans, and nothing reads fits that scoring saw.
"""

from steelyard.verify.agreement import agreement as agreement
from steelyard.verify.by_retraining import by_retraining as by_retraining
from steelyard.verify.by_subsets import lds as lds
from steelyard.verify.calibration import calibration as calibration
from steelyard.verify.mislabel import mislabel_auc as mislabel_auc
from steelyard.verify.removal import removal_curve as removal_curve
from steelyard.verify.tail_patch import tail_patch as tail_patch
from steelyard.verify.top_removal import top_removal as top_removal
