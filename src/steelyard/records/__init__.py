"""What the stages hand to each other: frozen records, with no behaviour beyond reading, saving and loading.

Nothing in here trains, scores, plots or imports a framework. Every array carries the ids of what its axes
mean, its unit and its sign; every record carries its provenance.
"""

from steelyard.records.comparison import Comparison as Comparison
from steelyard.records.evidence import Evidence as Evidence
from steelyard.records.examples import Column as Column
from steelyard.records.examples import Examples as Examples
from steelyard.records.leaderboard import Leaderboard as Leaderboard
from steelyard.records.plan import Plan as Plan
from steelyard.records.provenance import Cost as Cost
from steelyard.records.provenance import Products as Products
from steelyard.records.provenance import Provenance as Provenance
from steelyard.records.report import Finding as Finding
from steelyard.records.report import Report as Report
from steelyard.records.scores import Measurement as Measurement
from steelyard.records.scores import Scores as Scores
from steelyard.records.token_scores import PartScores as PartScores
from steelyard.records.token_scores import TokenScores as TokenScores
from steelyard.records.uncertainty import Uncertainty as Uncertainty
