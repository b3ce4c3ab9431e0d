// BentoML's copy of Swagger UI over the service's own OpenAPI document.
window.SwaggerUIBundle({ url: "docs.json", dom_id: "#docs", deepLinking: true, validatorUrl: null });
