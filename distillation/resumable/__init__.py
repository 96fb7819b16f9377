"""Resumable stages, progress, and atomic writes."""
