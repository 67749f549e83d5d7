"""What tests of several files share and no pytest collects."""
