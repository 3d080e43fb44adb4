//! What will be done to make a container, decided before anything is touched.
