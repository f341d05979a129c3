"""A robot to type at: an agent that InstructRL ships obeys sentences in the embedded simulator."""
