//! What is kept beside the image, and how does it meet a new one? `/etc`, `/var`, overlays and single paths.
