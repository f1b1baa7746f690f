"""What people look at: tables of scores, rankings and layers."""
