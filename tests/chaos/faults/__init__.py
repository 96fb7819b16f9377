"""What breaks: a class for each kind of fault, with what begins and what ends it."""
