"""What was filmed: triplets out of videos and of folders of frames, and when those were taken."""
