"""Data in and out: readers, stable ids, checksums, checks, demo data, and writing data back.

Every reader brings its format down to batches of cells (``kinds.py``); ``assemble.py`` makes examples of
them, in memory or through ``cache.py``, with ids from ``identity.py``. Nothing here knows a model, trains, or
scores; and no library of tables or tensors is imported before data of that library, or a file that needs it,
arrives.
"""

from steelyard.data.checks import check_classes as check_classes
from steelyard.data.checks import check_finite as check_finite
from steelyard.data.checks import check_labels as check_labels
from steelyard.data.limits import Limits as Limits
from steelyard.data.readers import READABLE as READABLE
from steelyard.data.readers import read as read
from steelyard.data.sources import digits as digits
from steelyard.data.sources import python_docs as python_docs
from steelyard.data.write import write as write
