"""The table of views: which stand under Explore, and which have a tab of their own."""

from sr_core.ui.explorer.audit import AuditSection
from sr_core.ui.explorer.section import Section

EXPLORE: tuple[Section, ...] = ()
"""Under the comparer, in the order of their tabs."""
PAGES: tuple[Section, ...] = (AuditSection(),)
"""Tabs beside Restore and Explore, in their order."""
