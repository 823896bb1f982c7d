//! Which files does a system need to boot from an image? All of them are carried in the program and written from here.
