"""The run folder: what keeps work safe from kill -9, tells how far it is, and counts what it costs.

Here live the folder with its manifest and lock, atomic files, progress, the cost meter and named streams.
Nothing here knows what is computed: callers keep arrays under keys of their own. No framework is imported.
"""

from steelyard.run.folder import open_run as open_run
from steelyard.run.manifest import Manifest as Manifest
from steelyard.run.manifest import read_manifest as read_manifest
from steelyard.run.run import Run as Run
from steelyard.run.run import in_memory as in_memory
from steelyard.run.seeds import generator as generator
from steelyard.run.seeds import stream as stream
