"""ControlNets, IP-Adapters and textual inversions from files."""
