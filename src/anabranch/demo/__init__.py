"""Flows that come with the package: they show what a flow looks like and give a new machine something real to run."""
