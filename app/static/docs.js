// Scripts in the page itself are refused by its content security policy, so this one is a file.
window.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: false,
  validatorUrl: null, // the usual one is on the internet
});
