"""TEMPORARY: the analysis of untyped records, for the rooms that are not converted yet. To be deleted."""
