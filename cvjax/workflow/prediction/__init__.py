"""Asking trained networks about pictures from outside: finding the pictures, the answers, and their files."""
