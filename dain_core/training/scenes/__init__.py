"""Made scenes: moving layers with depth. Their flow, their depth and every frame between are known."""
