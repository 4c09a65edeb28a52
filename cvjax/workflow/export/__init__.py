"""Trained networks for use without cvjax: as programs, and as parameters under their publishers' names."""
