"""What tasks log and print, from where they run to where the run is."""
