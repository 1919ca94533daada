"""Studies join data, agents, simulator and evaluation: train, compare, select, finetune, recommend."""
