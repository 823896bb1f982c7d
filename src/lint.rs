//! Would it boot? What a root tree lacks, or has and should not, is named before it becomes an image.
