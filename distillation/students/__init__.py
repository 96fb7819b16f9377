"""Which blocks and channels a student keeps of its teacher, and where its weights and its prior come from."""
