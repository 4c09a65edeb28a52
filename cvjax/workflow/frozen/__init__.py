"""Frozen encoders: loading them, and everything they are judged by without training them further."""
