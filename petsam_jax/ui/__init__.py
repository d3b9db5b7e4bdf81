"""The page that `demo.py` serves.

The services compute (image_service, video_service), the routes and guard speak HTTP, page puts the
Gradio app together, and the files in `browser` run in the visitor's browser.
"""
