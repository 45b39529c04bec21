"""Stage 4: is it true? Claims of scores and plans against refits that no method has seen.

Here lives every way to put a number and an interval to a claim. Each asks what random scores or random plans
of equal size would have shown, says how small an effect it could have seen, and refuses to conclude when
noise exceeds signal. Nothing here scores or makes plans, and nothing reads fits that scoring saw.
"""

from steelyard.verify.agreement import agreement as agreement
from steelyard.verify.agreement import class_detection as class_detection
from steelyard.verify.agreement import subclass_detection as subclass_detection
from steelyard.verify.brittleness import brittleness as brittleness
from steelyard.verify.by_leaving_out import loo as loo
from steelyard.verify.by_retraining import by_retraining as by_retraining
from steelyard.verify.by_subsets import lds as lds
from steelyard.verify.calibration import calibration as calibration
from steelyard.verify.editing import fix_labels as fix_labels
from steelyard.verify.editing import poison as poison
from steelyard.verify.editing import targeted_edit as targeted_edit
from steelyard.verify.mislabel import mislabel_auc as mislabel_auc
from steelyard.verify.planning import FORECAST as FORECAST
from steelyard.verify.planning import Forecast as Forecast
from steelyard.verify.planning import forecast as forecast
from steelyard.verify.planted import mixed_data as mixed_data
from steelyard.verify.planted import mrr as mrr
from steelyard.verify.planted import recall as recall
from steelyard.verify.planted import shortcut as shortcut
from steelyard.verify.qld import qld as qld
from steelyard.verify.removal import removal_curve as removal_curve
from steelyard.verify.removal import retain_curve as retain_curve
from steelyard.verify.stability import cardinality as cardinality
from steelyard.verify.stability import model_randomisation as model_randomisation
from steelyard.verify.stability import seed_stability as seed_stability
from steelyard.verify.tail_patch import tail_patch as tail_patch
