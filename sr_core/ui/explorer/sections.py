"""The table of views: which stand under Explore, and which have a tab of their own."""

from sr_core.ui.explorer.audit import AuditSection
from sr_core.ui.explorer.disagreement import DisagreementSection
from sr_core.ui.explorer.maps import MapsSection
from sr_core.ui.explorer.pairs import PairsSection
from sr_core.ui.explorer.ranking import RankingSection
from sr_core.ui.explorer.runs import RunsSection
from sr_core.ui.explorer.section import Section
from sr_core.ui.explorer.spectra import SpectraSection
from sr_core.ui.explorer.voting import VoteSection

EXPLORE: tuple[Section, ...] = (
    RankingSection(),
    PairsSection(),
    SpectraSection(),
    DisagreementSection(),
    MapsSection(),
)
"""Under the comparer, in the order of their tabs."""
PAGES: tuple[Section, ...] = (VoteSection(), AuditSection(), RunsSection())
"""Tabs beside Restore and Explore, in their order."""
