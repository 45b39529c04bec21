"""Stage 5: from records to what people read: one HTML file, a terminal, tables.

Choosing what is shown, drawing it, putting the verdict in words and coded checks live here; nothing in here
trains, scores, verifies or changes a record. Everything on the page comes from the ``Report``, so that it can
be made again without the model.
"""

from steelyard.report import checks as checks
from steelyard.report import comparison as comparison
from steelyard.report import leaderboard as leaderboard
from steelyard.report.frames import for_spreadsheet as for_spreadsheet
from steelyard.report.frames import to_frames as to_frames
from steelyard.report.gather import build as build
from steelyard.report.gather import judge as judge
from steelyard.report.page import html as html
from steelyard.report.page import render as render
from steelyard.report.selection import View as View
from steelyard.report.selection import shown_pairs as shown_pairs
from steelyard.report.showing import annotate as annotate
from steelyard.report.store import load as load
from steelyard.report.store import save as save
from steelyard.report.terminal import text as text
