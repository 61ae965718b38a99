"""Model files of llama.cpp and Ollama."""
