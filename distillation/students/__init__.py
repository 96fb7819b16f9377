"""Choice of the blocks and channels that a student keeps of its teacher; its weights and its prior."""
