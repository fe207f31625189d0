//! The optimizer rule list for views.
