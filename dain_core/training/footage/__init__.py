"""Footage: triplets from video files and from folders of frames, and the times at which the frames were taken."""
