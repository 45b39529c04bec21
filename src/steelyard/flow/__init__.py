"""The stages in one call: attribute, value, clean, verify; what the command line is a shell of.

Everything here puts together what the stages offer, and nothing here computes.
"""

from steelyard.flow.banking import bank_facts as bank_facts
from steelyard.flow.banking import build_bank as build_bank
from steelyard.flow.banking import use_bank as use_bank
from steelyard.flow.choosing import Demonstrations as Demonstrations
from steelyard.flow.choosing import choose as choose
from steelyard.flow.cleaning import clean as clean
from steelyard.flow.cleaning import issues as issues
from steelyard.flow.comparing import Terms as Terms
from steelyard.flow.comparing import compare as compare
from steelyard.flow.indexing import IndexAnswer as IndexAnswer
from steelyard.flow.indexing import build_index as build_index
from steelyard.flow.indexing import query_index as query_index
from steelyard.flow.leaderboard import Asked as Asked
from steelyard.flow.leaderboard import leaderboard as leaderboard
from steelyard.flow.metrics import METRICS as METRICS
from steelyard.flow.problems import learner_of as learner_of
from steelyard.flow.problems import problem_of as problem_of
from steelyard.flow.scoring import attribute as attribute
from steelyard.flow.scoring import explain as explain
from steelyard.flow.scoring import with_predictions as with_predictions
from steelyard.flow.selecting import select as select
from steelyard.flow.selecting import selected as selected
from steelyard.flow.staging import Choose as Choose
from steelyard.flow.staging import Staged as Staged
from steelyard.flow.staging import choose_by as choose_by
from steelyard.flow.staging import train_in_stages as train_in_stages
from steelyard.flow.systems import SYSTEMS as SYSTEMS
from steelyard.flow.systems import system_by_name as system_by_name
from steelyard.flow.tasks import Task as Task
from steelyard.flow.valuing import grouped as grouped
from steelyard.flow.valuing import interval_meaning as interval_meaning
from steelyard.flow.valuing import value as value
from steelyard.flow.valuing import value_table as value_table
from steelyard.flow.valuing import with_utility as with_utility
from steelyard.flow.verifying import forecasts as forecasts
from steelyard.flow.verifying import verify_report as verify_report
