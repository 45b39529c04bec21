"""What training data does to models: collect, score, act, verify by retraining, report."""
