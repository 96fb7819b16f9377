"""How the project is put on machines. `local` is one machine: `make run`."""
