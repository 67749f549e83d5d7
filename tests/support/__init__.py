"""Helpers that several test modules share; none of these modules is collected as tests."""
