"""Deployment: containers, Helm chart, monitoring. `local` runs everything on one machine (`make run`)."""
