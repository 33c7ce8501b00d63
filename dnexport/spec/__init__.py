"""Frozen records that every stratum speaks. Imports numpy and pydantic, nothing heavier."""
