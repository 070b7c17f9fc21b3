"""Made scenes: layers with depth that move, of which every flow and every frame between is known."""
