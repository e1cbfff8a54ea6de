"""The engine: what a flow is run with. Import paths known from Prefect 1 are here too."""
